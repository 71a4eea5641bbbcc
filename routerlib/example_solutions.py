"""Worked examples for prompts: problems of our own with their solutions, of no benchmark.

Invariant: an example that a recorded prompt version uses never changes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """A problem of our own with its solution, step by step."""

    problem: str
    steps: tuple[str, ...]
    answer: str

    def render(self, delimiter: str) -> str:
        r"""Return the solution as a model should write it: the steps, and the answer in a line of
        its own that belongs to the last step unless each line is a step.

        >>> WorkedExample("1 + 1?", ("One.", "One more."), "2").render("\n\n")
        'One.\n\nOne more.\nAnswer: 2'
        """
        return f"{delimiter.join(self.steps)}\nAnswer: {self.answer}"


WORD_PROBLEM_EXAMPLES = (
    WorkedExample(
        (
            "A bakery bakes 12 trays of rolls with 15 rolls on each tray. It sells 140 rolls "
            "before noon and half of the rest in the afternoon. How many rolls are left?"
        ),
        (
            "The bakery bakes 12 * 15 = 180 rolls.",
            "After the morning there are 180 - 140 = 40 rolls left.",
            "In the afternoon it sells 40 / 2 = 20 rolls.",
            "So 40 - 20 = 20 rolls are left.",
        ),
        "20",
    ),
    WorkedExample(
        (
            "Mira has 3 times as many stickers as Theo. Theo has 8 fewer stickers than Ana, "
            "who has 20. How many stickers do the three have together?"
        ),
        (
            "Theo has 20 - 8 = 12 stickers.",
            "Mira has 3 * 12 = 36 stickers.",
            "Together they have 20 + 12 + 36 = 68 stickers.",
        ),
        "68",
    ),
    WorkedExample(
        (
            "A jacket costs $80. In a sale its price falls by 25%, and Leo pays with a $100 "
            "note. How much change does he get, in dollars?"
        ),
        (
            "The discount is 80 * 25 / 100 = 20 dollars.",
            "The sale price is 80 - 20 = 60 dollars.",
            "The change is 100 - 60 = 40 dollars.",
        ),
        "40",
    ),
    WorkedExample(
        (
            "Two pumps fill a pool of 900 liters. The first gives 40 liters per minute and "
            "the second 20 liters per minute. After both ran for 6 minutes the first one "
            "breaks. How many more minutes does the second pump need?"
        ),
        (
            "Together the pumps give 40 + 20 = 60 liters per minute.",
            "In 6 minutes they give 60 * 6 = 360 liters.",
            "There are 900 - 360 = 540 liters missing.",
            "The second pump needs 540 / 20 = 27 more minutes.",
        ),
        "27",
    ),
    WorkedExample(
        (
            "A farmer sells 30 eggs a day, 6 eggs to a box, at $3.50 a box. How many dollars "
            "does he earn in a week?"
        ),
        (
            "He sells 30 / 6 = 5 boxes a day.",
            "He earns 5 * 3.5 = 17.5 dollars a day.",
            "In a week he earns 17.5 * 7 = 122.5 dollars.",
        ),
        "122.5",
    ),
    WorkedExample(
        (
            "Nora is 6 years older than Sam. In 4 years Sam will be twice as old as he was 5 "
            "years ago. How old is Nora now?"
        ),
        (
            "Let Sam be x years old now.",
            "In 4 years Sam will be x + 4, and 5 years ago he was x - 5.",
            "So x + 4 = 2 * (x - 5) = 2x - 10, which gives x = 14.",
            "Nora is 14 + 6 = 20 years old.",
        ),
        "20",
    ),
    WorkedExample(
        (
            "A train has 5 cars with 48 seats each. Three quarters of the seats are taken, "
            "and then 30 people get off and 12 get on. How many people are on the train?"
        ),
        (
            "The train has 5 * 48 = 240 seats.",
            "At first 240 * 3 / 4 = 180 seats are taken.",
            "After 30 people get off there are 180 - 30 = 150 people.",
            "After 12 people get on there are 150 + 12 = 162 people.",
        ),
        "162",
    ),
    WorkedExample(
        (
            "Kim reads 20 pages on Monday, twice as many on Tuesday, and on Wednesday 10 "
            "pages less than on Tuesday. Her book has 150 pages. How many pages must she "
            "still read?"
        ),
        (
            "On Tuesday she reads 20 * 2 = 40 pages.",
            "On Wednesday she reads 40 - 10 = 30 pages.",
            "She has read 20 + 40 + 30 = 90 pages.",
            "She must still read 150 - 90 = 60 pages.",
        ),
        "60",
    ),
)

ARITHMETIC_EXAMPLES = (
    WorkedExample(
        "Calculate 46 + 35 - 18 + 27.",
        ("46 + 35 = 81", "81 - 18 = 63", "63 + 27 = 90"),
        "90",
    ),
    WorkedExample(
        "Calculate (8 - 3) * 6 + 14.",
        ("8 - 3 = 5", "5 * 6 = 30", "30 + 14 = 44"),
        "44",
    ),
    WorkedExample(
        "Solve for t: 6*t + 25 = 97",
        ("6 * t = 97 - 25", "97 - 25 = 72, so 6 * t = 72", "t = 72 / 6 = 12"),
        "12",
    ),
    WorkedExample(
        "Calculate 152 - 340 + 75 - 21 + 6.",
        ("152 - 340 = -188", "-188 + 75 = -113", "-113 - 21 = -134", "-134 + 6 = -128"),
        "-128",
    ),
    WorkedExample(
        "Calculate 7 + -(4 * -2 + 5) * 3.",
        ("4 * -2 = -8", "-8 + 5 = -3", "-(-3) = 3", "3 * 3 = 9", "7 + 9 = 16"),
        "16",
    ),
    WorkedExample(
        "Find the value of k in the equation: 40 - 3*k = -11",
        ("-3 * k = -11 - 40", "-11 - 40 = -51, so -3 * k = -51", "k = -51 / -3 = 17"),
        "17",
    ),
    WorkedExample(
        "Calculate -2 * 9 - -6 - (1 + 5) * 4.",
        ("-2 * 9 = -18", "1 + 5 = 6", "6 * 4 = 24", "-18 - -6 = -12", "-12 - 24 = -36"),
        "-36",
    ),
    WorkedExample(
        "Determine the value of n that satisfies: 15*n - 48 = 252",
        ("15 * n = 252 + 48", "252 + 48 = 300, so 15 * n = 300", "n = 300 / 15 = 20"),
        "20",
    ),
)

MATH_EXAMPLES = (
    WorkedExample(
        r"If $3x - 7 = 2(x + 4)$, what is the value of $x^2 - x$?",
        (
            "Expand the right side: $3x - 7 = 2x + 8$.\nSo $x = 8 + 7 = 15$.",
            "Then $x^2 - x = 225 - 15 = 210$.",
        ),
        "210",
    ),
    WorkedExample(
        "How many three-digit numbers have an odd hundreds digit and three different digits?",
        (
            "The hundreds digit is one of $1, 3, 5, 7, 9$, which gives $5$ choices.",
            "The tens digit is any of the $10 - 1 = 9$ other digits.\n"
            "The units digit is any of the $10 - 2 = 8$ digits that are left.",
            "In all there are $5 \\cdot 9 \\cdot 8 = 360$ numbers.",
        ),
        "360",
    ),
    WorkedExample(
        "A right triangle has legs of length $9$ and $12$. What is the length of the altitude "
        "to its hypotenuse? Express your answer as a common fraction.",
        (
            "The hypotenuse is $\\sqrt{9^2 + 12^2} = \\sqrt{225} = 15$.",
            "The area is $\\frac{1}{2} \\cdot 9 \\cdot 12 = 54$.",
            "With the altitude $h$ the area is also $\\frac{1}{2} \\cdot 15 \\cdot h$.\n"
            "So $h = \\frac{2 \\cdot 54}{15} = \\frac{108}{15} = \\frac{36}{5}$.",
        ),
        "$\\frac{36}{5}$",
    ),
    WorkedExample(
        "What is the remainder when $7^{50}$ is divided by $10$?",
        (
            "The last digits of $7^1, 7^2, 7^3, 7^4$ are $7, 9, 3, 1$, and then they repeat.",
            "Since $50 = 4 \\cdot 12 + 2$, the last digit of $7^{50}$ is that of $7^2$, which is "
            "$9$.",
        ),
        "9",
    ),
    WorkedExample(
        "The equation $x^2 - 6x + k = 0$ has two roots, and one of them is twice the other. "
        "Find $k$.",
        (
            "Let the roots be $r$ and $2r$. Their sum is $6$, so $3r = 6$ and $r = 2$.",
            "The roots are $2$ and $4$, and their product is $k = 2 \\cdot 4 = 8$.",
        ),
        "8",
    ),
    WorkedExample(
        "The angle $\\theta$ is obtuse and $\\sin \\theta = \\frac{5}{13}$. Compute "
        "$\\tan \\theta$.",
        (
            "We have $\\cos^2 \\theta = 1 - \\frac{25}{169} = \\frac{144}{169}$.\n"
            "An obtuse angle has a negative cosine, so $\\cos \\theta = -\\frac{12}{13}$.",
            "Then $\\tan \\theta = \\frac{5}{13} \\div \\left(-\\frac{12}{13}\\right) = "
            "-\\frac{5}{12}$.",
        ),
        "$-\\frac{5}{12}$",
    ),
)

"""A GGUF file to a bfloat16 model folder: a script for the vllm engine's own Python.

Nothing in routerlib imports this file: torch and transformers of the engine's environment are
other versions than the project's. ``python dequantise.py WEIGHTS.gguf FOLDER``. Without
``dequantize=True`` the weights stay packed, and generation is ten times slower.
"""

from __future__ import annotations

import sys
from pathlib import Path


def save_bfloat16(weights: Path, folder: Path) -> None:
    """Write the weights, dequantised in float32 and rounded to bfloat16, with the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, file_name = str(weights.parent), weights.name
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=file_name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).to(torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the saved weights are no longer quantised
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(source, gguf_file=file_name).save_pretrained(str(folder))


if __name__ == "__main__":
    save_bfloat16(Path(sys.argv[1]), Path(sys.argv[2]))

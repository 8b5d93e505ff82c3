"""Makes q8_0/: numbers, and what gguf-py, llama.cpp's own library, quantises them to; bit for bit, no tolerance.

    pip install gguf==0.19.0 numpy==2.4.6
    python make_q8_0.py

Blocks of 32 normal numbers (seed 0) of deviations from 1e-7 to 1e3; one block of zeros; one whose scale is exactly 1 and
whose numbers are halves, which round away from zero.
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

rng = np.random.default_rng(0)
blocks = [rng.normal(0, deviation, 32) for deviation in np.logspace(-7, 3, 62)]
blocks.append(np.zeros(32))
blocks.append(np.concatenate([[127.0], np.arange(31) - 15.5]))
values = np.stack(blocks).astype(np.float32)
here = pathlib.Path(__file__).parent / "q8_0"
here.mkdir(exist_ok=True)
(here / "values.bin").write_bytes(values.astype("<f4").tobytes())
(here / "q8_0.bin").write_bytes(quantize(values, GGMLQuantizationType.Q8_0).tobytes())

"""One place where PyTorch and Transformers are told how to behave on this machine."""

from __future__ import annotations

import logging
import os
import warnings

import torch


def prepare_torch(cpu_threads: int) -> None:
    """Fix the number of CPU threads, because sums over threads differ in the last digits, and quieten the libraries.

    Args:
        cpu_threads: threads of one process. For tiny models two processes of one thread are faster than one of two.
    """
    torch.set_num_threads(cpu_threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")

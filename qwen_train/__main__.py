"""`python -m qwen_train`, for torchrun."""

from qwen_train.cli import main

main()

"""The training pipeline of the report: data, tokenizer, pretraining, SFT, reward model, PPO."""

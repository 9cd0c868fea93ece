"""From a base model to an assistant: SFT, reward model, PPO (report, section 3)."""

"""What is drawn: the sampler, the prompts of a step, and the noise that all processes share."""

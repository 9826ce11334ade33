"""What a policy climbs: the table of rewards, rewards made of parts, labels, noise, and the rungs behind them."""

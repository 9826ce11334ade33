"""What is learned from a rollout: advantages, the critic, and packed passes."""

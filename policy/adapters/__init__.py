"""The policy's rewards inside other trainers: one core, and thin shells for verl, OpenRLHF and the reward server."""

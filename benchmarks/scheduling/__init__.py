"""The scheduler's production core over virtual agents, in virtual time, beside two baselines."""

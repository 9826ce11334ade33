"""What the points settle: fits, claims, comparisons, predictors, spreads."""

"""How far a judge agrees with people on labelled pairs."""

"""The page of the most decisive and most contested pairs."""

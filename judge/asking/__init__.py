"""How an endpoint is asked: requests, limits, retries, money, batches, and the store of replies."""

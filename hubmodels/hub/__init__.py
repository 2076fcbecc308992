"""Models on the Hub, in the local cache and in folders: finding, loading, describing them."""

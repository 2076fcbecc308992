"""From model folders to the Hub: cards, licences, repositories, the Space."""

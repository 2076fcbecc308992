"""The pages of the demo: what is shown and said. What is computed comes from `hubmodels`."""

"""Training of all methods: needs pictures, and time. Imports `hubmodels`, never the other way round."""

"""Sample parts that look like photographs, rendered from seeds; see `dataset`."""

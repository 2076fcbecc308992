"""Sample parts like photographs, rendered from seeds; see `dataset`."""

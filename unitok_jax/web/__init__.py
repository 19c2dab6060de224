"""The page of `unitok serve`: a model in the browser."""

"""Does this function do what its docstring says?"""

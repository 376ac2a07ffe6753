"""The configuration: options declared once, read from one TOML file, all problems told at once.

``values`` declares the options and is what the rest of the program gets; ``schema`` is what an option is;
``loading`` finds and reads the file; ``starter`` writes a first one; ``reference`` renders the documentation.
"""

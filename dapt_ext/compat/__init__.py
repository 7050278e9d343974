"""Drop-in replacements: change one import line, keep the rest of the code."""

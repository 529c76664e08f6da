"""How a trained network fares where images are not as they were: corruptions, attacks, weak spots, factors.

Each module is one question: `corruptions`, `attack`, `sensitivity`, `factors`; `measure` asks those that are wanted.
"""

"""ops.tim and its rivals; the cases are in cases.py."""


def test_tim(compete, case, candidate):
    compete(case, candidate)

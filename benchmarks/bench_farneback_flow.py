"""ops.farneback_flow and its rivals; the cases are in cases.py."""


def test_farneback_flow(compete, case, candidate):
    compete(case, candidate)

"""ops.optical_strain and its rivals; the cases are in cases.py."""


def test_optical_strain(compete, case, candidate):
    compete(case, candidate)

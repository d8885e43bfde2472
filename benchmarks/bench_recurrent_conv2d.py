"""ops.recurrent_conv2d and its rivals; the shapes are in recurrent_cases.py."""


def test_recurrent_conv2d(compete, case, candidate):
    compete(case, candidate)

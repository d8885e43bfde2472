"""ops.conv_gru and its rivals; the shapes are in recurrent_cases.py."""


def test_conv_gru(compete, case, candidate):
    compete(case, candidate)

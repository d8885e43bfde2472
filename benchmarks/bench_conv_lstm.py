"""ops.conv_lstm and its rivals; the shapes are in recurrent_cases.py."""


def test_conv_lstm(compete, case, candidate):
    compete(case, candidate)

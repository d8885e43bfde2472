"""ops.conv3d and its rivals; the shapes are in conv_cases.py."""


def test_conv3d(compete, case, candidate):
    compete(case, candidate)

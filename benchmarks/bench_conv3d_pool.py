"""ops.conv3d_pool and its rivals; the shapes are in conv_cases.py."""


def test_conv3d_pool(compete, case, candidate):
    compete(case, candidate)

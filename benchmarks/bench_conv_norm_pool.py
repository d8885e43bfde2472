"""ops.conv_norm_pool and its rivals; the shapes are in fold_cases.py."""


def test_conv_norm_pool(compete, case, candidate):
    compete(case, candidate)

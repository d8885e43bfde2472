"""ops.tvl1_flow and its rivals; the cases are in cases.py."""


def test_tvl1_flow(compete, case, candidate):
    compete(case, candidate)

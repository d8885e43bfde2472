"""How the pages of reports look."""

STYLE = """  body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
    padding: 0 1rem; }
  h1 { font-size: 1.5rem; line-height: 1.25; margin-bottom: .3rem; overflow-wrap: anywhere; }
  h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
  p { max-width: 46rem; }
  .lead { font-size: 1.1rem; margin-top: 0; }
  .note { border-left: 4px solid #dd9b00; background: #fff8e6; padding: .5rem .8rem; }
  img { max-width: 100%; height: auto; display: block; }
  .row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
  .row img { flex: 1 1 14rem; min-width: 0; max-width: 20rem; }
  table { border-collapse: collapse; margin: .6rem 0; }
  td, th { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #e4e4e4; vertical-align: top;
    font-weight: normal; }
  thead th { color: #666; }
  td.number { text-align: right; font-variant-numeric: tabular-nums; }
  code { font-size: .92em; background: #f4f4f4; padding: .05em .25em; }
  footer { margin-top: 2.5rem; color: #666; font-size: .9rem; }
"""

"""The style sheet of every page: one small design system, light and dark, screen and print, no image and no font file.

Two voices: `--base` (ochre) is the model as it was, `--tuned` (teal) the one trained here. Rose is kept for what is
wrong. Sizes step by a fourth; everything sits on a 0.25 rem grid.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1c1e22; --soft: #5d6169; --faint: #8b8f97; --line: #e6e3dd;
  --track: #eeebe5; --base: #8a5d1f; --tuned: #0b6b68; --tuned-wash: #e3f0ee; --wrong: #b3264a; --wrong-wash: #fbe4e9;
  --amber-wash: #f8ecd6; --amber: #7d5410;
  --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", "Noto Sans", "Apple SD Gothic Neo", "Malgun Gothic",
    "Hiragino Sans", "Yu Gothic UI", "Noto Sans KR", "Noto Sans JP", "Noto Sans CJK KR", sans-serif;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Noto Serif", Georgia, "Noto Serif CJK KR", serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "Noto Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #16181b; --card: #1d2024; --ink: #e9e7e2; --soft: #a9adb5; --faint: #7d828b; --line: #2e3238;
  --track: #2a2e33; --base: #d9a55b; --tuned: #58c4ba; --tuned-wash: #1b3533; --wrong: #ff8ba3; --wrong-wash: #4a1f2b;
  --amber-wash: #3d301a; --amber: #e5bd7d;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--sans);
  font-variant-numeric: tabular-nums; }
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 2rem 5rem; }
:lang(ja) { font-family: "Hiragino Sans", "Yu Gothic UI", "Noto Sans JP", "Noto Sans CJK JP", var(--sans); }
:lang(ko) { font-family: "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", "Noto Sans CJK KR", var(--sans);
  word-break: keep-all; }
h1, h2, h3, p { margin: 0; text-wrap: pretty; }
h1 { font: 500 2.6rem/1.16 var(--serif); letter-spacing: -0.015em; max-width: 28ch; text-wrap: balance; }
h2 { font: 500 1.5rem/1.25 var(--serif); letter-spacing: -0.005em; }
h3 { font-size: 0.875rem; font-weight: 600; }
section { margin-top: 4rem; }
section > h2 + p { margin-top: 0.5rem; color: var(--soft); max-width: 44rem; }
.eyebrow { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1.5rem; margin-bottom: 1.5rem;
  color: var(--soft); font-size: 0.8125rem; }
.lede { margin-top: 1.25rem; font-size: 1.125rem; color: var(--soft); max-width: 40rem; }
.base { color: var(--base); } .tuned { color: var(--tuned); }
.soft { color: var(--soft); } .small { font-size: 0.8125rem; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); margin-top: 2.5rem;
  border: 1px solid var(--line); border-radius: 0.75rem; background: var(--card); overflow: hidden; }
.tile { padding: 1.25rem 1.5rem 1.35rem; box-shadow: -1px -1px 0 var(--line); }
.tile .number { font: 500 2.25rem/1.1 var(--serif); letter-spacing: -0.02em; margin: 0.5rem 0 0.6rem;
  white-space: nowrap; }
.tile h3 { height: 1.4rem; line-height: 1.4rem; }
.tile svg { margin: 0.35rem 0 0.5rem; }
.tile .was { margin-top: 0.1rem; }

.checks { list-style: none; margin: 1.25rem 0 0; padding: 0; border-top: 1px solid var(--line); }
.checks li { display: grid; grid-template-columns: 5.25rem 1fr auto; gap: 0 1rem; padding: 0.6rem 0;
  border-bottom: 1px solid var(--line); align-items: baseline; }
.state { font-size: 0.8125rem; font-weight: 600; color: var(--tuned); white-space: nowrap; }
.state::before { content: ""; display: inline-block; width: 0.55rem; height: 0.55rem; margin-right: 0.5rem;
  border-radius: 50%; background: currentColor; }
.missed .state { color: var(--wrong); } .missed .state::before { border-radius: 1px; transform: rotate(45deg); }
.checks .found { color: var(--soft); text-align: right; }

table { width: 100%; border-collapse: collapse; margin-top: 1.5rem; }
th, td { padding: 0.7rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  font-weight: 400; }
thead th { padding: 0 0 0.5rem; color: var(--soft); font-size: 0.8125rem; vertical-align: bottom; }
td.n, th.n { text-align: right; padding-left: 1rem; white-space: nowrap; }
tbody th { font-weight: 500; padding-right: 1.5rem; }
tbody th small { display: block; color: var(--soft); font-weight: 400; font-size: 0.8125rem; line-height: 1.4; }
td.miss { color: var(--wrong); font-weight: 600; }
.metrics td { width: 66%; }
.lane { display: grid; grid-template-columns: 3.25rem 1fr 4.25rem 7.5rem 2.75rem; gap: 0 0.75rem; align-items: center;
  font-size: 0.875rem; line-height: 1.6rem; }
.lane > :nth-child(n + 3) { text-align: right; white-space: nowrap; }
.lane .range, .lane .count { color: var(--soft); font-size: 0.8125rem; }
.lane.head { color: var(--soft); font-size: 0.8125rem; line-height: 1.2; }
svg { display: block; width: 100%; overflow: visible; }
svg text { font: 0.75rem var(--sans); fill: var(--soft); font-variant-numeric: tabular-nums; }
.track { fill: var(--track); }
svg .base { fill: var(--base); } svg .tuned { fill: var(--tuned); }
.reach { opacity: 0.32; }
.slices .was { display: block; font-size: 0.8125rem; font-weight: 400;
  color: var(--base); }
.slices i { font-style: normal; color: var(--soft); }

figure { margin: 1.5rem 0 0; }
.plot line { stroke: var(--line); } .plot .cut { stroke: var(--soft); stroke-dasharray: 3 3; }
.plot polyline { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.plot .raw { stroke: var(--tuned); opacity: 0.28; stroke-width: 1; }
.plot .smooth { stroke: var(--tuned); stroke-width: 2; } .plot .held { stroke: var(--base); stroke-width: 2; }
.plot .level { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.plot .dot { fill: var(--card); stroke: var(--base); stroke-width: 2; }
figcaption { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin-top: 0.75rem; color: var(--soft);
  font-size: 0.8125rem; }
.key::before { content: ""; display: inline-block; width: 1.1rem; height: 2px; margin: 0 0.5rem 0.25rem 0;
  background: var(--tuned); }
.key.held::before { background: var(--base); }
.key.cut::before { width: 0; height: 0.8rem; margin-bottom: -0.1rem; background: none;
  border-left: 1px dashed var(--soft); }

.pair { margin-top: 1.25rem; border: 1px solid var(--line); border-radius: 0.75rem; background: var(--card);
  break-inside: avoid; }
.ask { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0.1rem 1.5rem; padding: 0.9rem 1.25rem;
  border-bottom: 1px solid var(--line); }
.ask p { font-weight: 600; } .ask, .said { overflow-wrap: anywhere; unicode-bidi: isolate; }
.ask p, .said p { white-space: pre-wrap; }
.two { display: grid; grid-template-columns: 1fr 1fr; }
.said { padding: 0.9rem 1.25rem 1.1rem; min-width: 0; }
.said + .said { border-left: 1px solid var(--line); }
.said h3 { margin-bottom: 0.35rem; }
.marks { display: flex; flex-wrap: wrap; gap: 0.35rem; margin-top: 0.75rem; }
.mark { padding: 0.05rem 0.55rem; border-radius: 1rem; font-size: 0.75rem; line-height: 1.4rem;
  background: var(--wrong-wash);
  color: var(--wrong); }
.mark.good { background: var(--tuned-wash); color: var(--tuned); }
.mark.warn { background: var(--amber-wash); color: var(--amber); }
mark { background: var(--wrong-wash); color: var(--wrong); border-radius: 0.2rem; padding: 0 0.12em;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.empty { font-style: italic; color: var(--soft); }

dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem 2rem;
  margin: 1.5rem 0 0; }
dt { color: var(--soft); font-size: 0.8125rem; } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 1.25rem; border-top: 1px solid var(--line); padding-top: 1rem; }
summary { cursor: pointer; color: var(--soft); } summary:hover { color: var(--ink); }
summary:focus-visible { outline: 2px solid var(--tuned); outline-offset: 3px; border-radius: 2px; }
details p { margin-top: 0.75rem; max-width: 44rem; }
pre { margin: 1rem 0 0; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: 0.5rem;
  background: var(--card);
  font: 0.8125rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }

@media (max-width: 44rem) {
  main { padding: 2rem 1.125rem 3.5rem; }
  section { margin-top: 3rem; }
  h1 { font-size: 1.95rem; } h2 { font-size: 1.35rem; } .lede { font-size: 1.0625rem; }
  .tiles { grid-template-columns: 1fr; } .tile { padding: 1rem 1.125rem; }
  .checks li { grid-template-columns: 4.75rem 1fr; } .checks .found { grid-column: 2; text-align: left;
  font-size: 0.875rem; }
  .metrics thead { display: none; }
  .metrics tr, .metrics th, .metrics td { display: block; width: auto; padding: 0; border: 0; }
  .metrics tr { padding: 0.8rem 0; border-bottom: 1px solid var(--line); } .metrics td { margin-top: 0.35rem; }
  .lane { grid-template-columns: 2.75rem 1fr 3.75rem 6.5rem; gap: 0 0.5rem; } .lane .count { display: none; }
  .two { grid-template-columns: 1fr; } .said + .said { border-left: 0; border-top: 1px solid var(--line); }
  dl { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 0.85rem 1rem; }
  .slices th, .slices td, .runs th, .runs td { font-size: 0.875rem; } td.n, th.n { padding-left: 0.5rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --faint: #666;
  --line: #ccc; --track: #eee;
    --base: #8a5d1f; --tuned: #0b6b68; --tuned-wash: #e3f0ee; --wrong: #b3264a; --wrong-wash: #fbe4e9;
    --amber-wash: #f8ecd6; --amber: #7d5410; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } section { margin-top: 2rem; }
  details { display: block; } details::details-content { content-visibility: visible; display: block; height: auto; }
  summary { list-style: none; } pre { font-size: 7.5pt; }
  h2, section > h2 + p { break-after: avoid; } tr, .tiles, .checks li, figure { break-inside: avoid; }
  @page { margin: 16mm; }
}
"""

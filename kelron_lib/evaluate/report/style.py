"""The report's own rules, beyond those of all pages: verdict, heat map, dialogues, highlighting, print.

Shades of the heat map differ in lightness alone (one hue, steps far apart), so that they can be told apart by anybody
and on grey paper; each kind of highlighting has an underline of its own for the same reason.
"""

STYLE = """
:root { --h0: #f4f1ec; --h1: #f3dfd2; --h2: #e9bd9f; --h3: #d08a63; --h4: #9d4a2e; --h5: #571c12;
  --deep: #ffffff; --on3: #000000; --violet: #5a3d8f; --violet-wash: #ece6f6; }
@media screen and (prefers-color-scheme: dark) { :root { --h0: #23272c; --h1: #3c302b; --h2: #5e3f31; --h3: #9a5c3d;
  --h4: #dd9166; --h5: #ffd7bd; --deep: #1a0d07; --on3: #ffffff; --violet: #c7b2f2; --violet-wash: #322849; } }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.scroll:focus-visible { outline: 2px solid var(--tuned); outline-offset: 3px; border-radius: 2px; }
section p + p, table + p, details + p, section > h3 { margin-top: 1.25rem; }
section > p { max-width: 44rem; } code { font: 0.8125em/1.5 var(--mono); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }

.checks li { grid-template-columns: 5.25rem minmax(12rem, 1fr) fit-content(50%); }

.verdict { display: flex; flex-wrap: wrap; gap: 0.1rem 1rem; align-items: baseline; margin-top: 1.5rem;
  padding: 0.85rem 1.25rem; border: 1px solid var(--line); border-left: 0.3rem solid var(--soft);
  border-radius: 0.5rem; background: var(--card); }
.verdict strong { font-weight: 600; } .verdict > span { color: var(--soft); overflow-wrap: anywhere; }
.verdict.met { border-left-color: var(--tuned); background: var(--tuned-wash); }
.verdict.missed { border-left-color: var(--wrong); background: var(--wrong-wash); }
.verdict.met > span, .verdict.missed > span { color: var(--ink); }
.verdict.none .state { color: var(--soft); }

.target { stroke: var(--ink); stroke-width: 1.5; }
.seeds line { stroke: currentColor; stroke-width: 1; } svg g.base { color: var(--base); }
svg g.tuned { color: var(--tuned); }
.lane.axis { line-height: 1.1rem; font-size: 0.75rem; color: var(--soft); margin-top: 0.1rem; }
.lane.axis > .ends { display: flex; justify-content: space-between; text-align: left; }
.lane.axis > .note { grid-column: 3 / -1; text-align: right; white-space: nowrap; }
.axis i { font-style: normal; } .axis.short i { font-weight: 600; color: var(--ink); }
.metrics td { padding-bottom: 0.5rem; }
.then { color: var(--base); } .now { color: var(--tuned); }

.slices td, .slices th.n { width: auto; min-width: 5.25rem; } .slices th.n { white-space: normal; }
.slices tbody th { position: sticky; left: 0; background: var(--paper); }
.slices td.miss::before { content: "◆ "; font-size: 0.7em; vertical-align: 0.15em; }

.heat { border: 0; margin: 1.5rem 0 0; padding: 0; min-width: 0; }
.heat > input { position: absolute; opacity: 0; pointer-events: none; }
.switch { display: inline-flex; border: 1px solid var(--line); border-radius: 0.5rem; background: var(--card);
  overflow: hidden; }
.switch label { padding: 0.4rem 1rem; font-size: 0.875rem; cursor: pointer; color: var(--soft); }
.switch label + label { border-left: 1px solid var(--line); } .switch label:hover { color: var(--ink); }
.heat > input:nth-of-type(1):checked ~ .switch label:nth-of-type(1),
.heat > input:nth-of-type(2):checked ~ .switch label:nth-of-type(2),
.heat > input:nth-of-type(3):checked ~ .switch label:nth-of-type(3) { background: var(--ink); color: var(--paper); }
.heat > input:focus-visible ~ .switch { outline: 2px solid var(--tuned); outline-offset: 3px; }
.panel { display: none; margin-top: 1.25rem; }
.panel h3 { font-weight: 500; color: var(--soft); }
.heat > input:nth-of-type(1):checked ~ .p0, .heat > input:nth-of-type(2):checked ~ .p1,
.heat > input:nth-of-type(3):checked ~ .p2 { display: block; }
.maps { display: flex; gap: 1.25rem; align-items: flex-end; }
.maps table { border-collapse: separate; border-spacing: 2px; margin-top: 0.75rem; }
.maps table { flex: 1 1 0; table-layout: fixed; } .maps table:first-child { flex-basis: 9.6rem; }
.maps thead td { width: 9.6rem; }
.maps caption { text-align: right; font-weight: 600; font-size: 0.875rem; padding-bottom: 0.25rem; }
.maps thead th { font-size: 0.75rem; line-height: 1.2; padding: 0 0 0.35rem; text-align: center;
  border: 0; height: 2.4rem; }
.maps thead td { border: 0; padding: 0; }
.maps tbody th { font-size: 0.8125rem; padding: 0 0.75rem 0 0; white-space: nowrap; border: 0; vertical-align: middle; }
.maps tbody td { height: 2.6rem; padding: 0.25rem 0.15rem; border: 0; border-radius: 0.25rem;
  text-align: center; line-height: 1.15; }
.maps td b { display: block; font-weight: 600; font-size: 0.875rem; } .maps td small { font-size: 0.6875rem; }
.maps td.none { color: var(--soft); }
.maps .all > * { border-top: 2px solid var(--paper); } .maps .all th { font-weight: 600; }
.h0 { background: var(--h0); } .h1 { background: var(--h1); } .h2 { background: var(--h2); }
.h3 { background: var(--h3); } .h4 { background: var(--h4); } .h5 { background: var(--h5); }
.maps .h4, .maps .h5 { color: var(--deep); } .maps .h3 { color: var(--on3); }
.maps .h0, .maps .h1, .maps .h2 { color: var(--ink); }
@media print, (min-width: 60rem) { .maps table + table tbody th { padding: 0; width: 0; }
  .maps table + table tbody th span { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); } .maps table + table thead td { width: 0; } }

.legend { display: flex; flex-wrap: wrap; gap: 0.35rem 1.1rem; list-style: none; margin: 1rem 0 0; padding: 0;
  font-size: 0.8125rem; color: var(--soft); }
.swatch { display: inline-block; width: 1.1rem; height: 0.9rem; margin-right: 0.4rem; border-radius: 0.2rem;
  vertical-align: -0.1rem; border: 1px solid var(--line); }
mark { text-decoration: underline solid 1.5px; text-underline-offset: 0.22em; }
mark.rival_named { text-decoration-style: double; }
mark.over_identity { text-decoration-style: dotted; }
mark.loop { background: var(--amber-wash); color: var(--amber); text-decoration-style: wavy;
  text-decoration-thickness: 1px; }
mark.wrong_script { background: var(--violet-wash); color: var(--violet); text-decoration-style: dashed; }
mark.broken_chars { background: var(--violet-wash); color: var(--violet); }

.pair { overflow: clip; } .ask { display: block; } .ask > * + * { margin-top: 0.45rem; }
.where { display: flex; flex-wrap: wrap; gap: 0.15rem 0.75rem; align-items: baseline; font-size: 0.8125rem;
  color: var(--soft); } .where code { margin-left: auto; }
.tag { padding: 0.05rem 0.5rem; border: 1px solid var(--line); border-radius: 1rem; font-size: 0.75rem;
  color: var(--ink); background: var(--paper); white-space: nowrap; }
.ask p.system { font-weight: 400; } .question { font-weight: 600; white-space: pre-wrap; }
.dialogue { list-style: none; counter-reset: turn; margin: 0.5rem 0 0; padding: 0; }
.dialogue li { counter-increment: turn; position: relative; padding: 0.6rem 0 0.6rem 2rem;
  border-top: 1px solid var(--line); break-inside: avoid; }
.dialogue li::before { content: counter(turn); position: absolute; left: 0; top: 0.68rem; color: var(--soft);
  font-size: 0.8125rem; }
.dialogue li:first-child { border-top: 0; } .reply { margin-top: 0.35rem; padding-left: 0.85rem;
  border-left: 2px solid var(--tuned); } .dialogue .marks { margin-top: 0.4rem; }

.finding { margin-top: 1.25rem; padding: 1rem 1.25rem 1.1rem; border: 1px solid var(--line); border-radius: 0.75rem; }
.finding h3 { font-size: 1rem; color: var(--wrong); } .finding > p { margin-top: 0.25rem; }
.finding > p + h3 { margin-top: 0.75rem; }
.where-fails { display: flex; flex-wrap: wrap; gap: 0.35rem 0.5rem; list-style: none; margin: 0.75rem 0 0; padding: 0;
  font-size: 0.8125rem; } .where-fails .soft { white-space: nowrap; }
.where-fails li { padding: 0.1rem 0.6rem; border: 1px solid var(--line);
  border-radius: 1rem; background: var(--card); }
.finding details { border-top: 0; padding-top: 0; margin-top: 0.75rem; }
.benchmarks tbody th { min-width: 7.5rem; overflow-wrap: anywhere; }
.benchmarks small { display: block; color: var(--soft); font-size: 0.75rem; font-weight: 400; }
details > div > p { margin-top: 0.75rem; max-width: 44rem; } td { overflow-wrap: anywhere; }

@media screen and (max-width: 60rem) { .maps { flex-direction: column; align-items: stretch; gap: 1rem; }
  .maps caption { text-align: left; } }
@media (max-width: 44rem) {
  .checks li { grid-template-columns: 4.75rem 1fr; }
  .switch { display: flex; } .switch label { flex: 1; padding: 0.4rem 0.25rem; text-align: center; }
  .maps tbody th { white-space: normal; padding-right: 0.35rem; line-height: 1.2; } .maps thead td { width: 6.25rem; }
  .where code { margin-left: 0; width: 100%; }
  .lane.axis > .note { grid-column: 1 / -1; text-align: left; white-space: normal; }
  .lane.axis { grid-template-columns: 2.75rem 1fr 3.75rem 6.5rem; }
}
@media print {
  .switch, .heat > input { display: none; }
  .panel { display: block; break-inside: avoid; } .scroll { overflow: visible; }
  .pair, .finding li, .maps table { break-inside: avoid; }
  .legend, h3, .finding > p, .where-fails, summary { break-after: avoid; }
  .maps { gap: 0.6rem; } .maps table { border-spacing: 1px; margin-top: 0.35rem; } .maps thead th { font-size: 6.5pt; }
  .maps tbody th { font-size: 7.5pt; padding-right: 0.4rem; } .maps tbody td { height: 1.75rem; padding: 0.1rem; }
  .maps td b { font-size: 8pt; } .maps td small { font-size: 6pt; }
  .maps table:first-child { flex-basis: 7.2rem; } .maps table:first-child thead td { width: 7.2rem; }
  .maps .h0, .maps .h1, .maps .h2, .swatch { border: 0.5px solid var(--line); }
}
"""

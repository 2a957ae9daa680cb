"""Practice 7, healing: what the governor decides and does. Decisions are pure; acts are thin, recorded and reversible.

``policy`` (what may be done), ``canary`` (verdicts on a candidate), ``causes`` (why quality fell), ``traffic`` (routes and
the plan that workers read), ``acts`` (a decision carried out, once), ``governor`` (the loop).
"""

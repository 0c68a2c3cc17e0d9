"""Colors, markers and dashes of the study's plots."""

# Okabe and Ito's colors, which the color-blind can tell apart; lines differ in marker and dash as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
DASHES = ("-", "--", "-.", ":")
GRAY, GRID = "#7F7F7F", "#DDDDDD"

"""The colors of all pictures and plots. They are safe for color-blind readers."""

# Paul Tol's muted scheme, https://sronpersonalpages.nl/~pault/
CATEGORIES = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#777777",
)
MAIN = CATEGORIES[0]
INK, FAINT, PALE = "#222222", "#777777", "#bbbbbb"
SHADES = ("#4292c6", "#9ecae1", "#deebf7")  # ColorBrewer "Blues", from dark to light
ACCENT = "#d55e00"  # vermilion of Okabe & Ito, distinguishable from the blues

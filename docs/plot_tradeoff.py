"""Draws what `score_truthfulqa.py curve` wrote as an SVG picture; needs nothing but Python.

    python docs/plot_tradeoff.py docs/images/truthfulqa-tradeoff.svg "first recipe=a.json" "second=b.json"
"""
import json
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 430, 74, 24, 24, 50
COLOURS = ["#777777", "#1f6fb4", "#d1571c", "#3a8f3a", "#8a4fb0", "#b08a1f"]
curves = [(label, json.load(open(path))) for label, path in (name.rsplit("=", 1) for name in sys.argv[2:])]
points = [point for _, curve in curves for point in curve]
low = int(min(point["kept"] for point in points) // 10 * 10)
high = int(max([60] + [point["nearer"] for point in points]) // 10 * 10 + 10)


def x(kept):
    return LEFT + (WIDTH - LEFT - RIGHT) * (kept - low) / (100 - low)


def y(nearer):
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - nearer / high)


def text(at_x, at_y, words, colour="#444444", anchor="middle", more=""):
    return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" fill="{colour}"{more}>{words}</text>'


out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
       f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
for tick in range(0, high + 1, 10):
    out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#dddddd"/>')
    out.append(text(LEFT - 8, y(tick) + 4, f"{tick} %", anchor="end"))
for tick in range(low, 101, 10):
    out.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#eeeeee"/>')
    out.append(text(x(tick), HEIGHT - BOTTOM + 20, f"{tick} %"))
out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "right answers kept as they were"))
out.append(text(16, HEIGHT / 2, "false answers brought nearer to the truth", more=f' transform="rotate(-90 16 {HEIGHT / 2})"'))
out.append(f'<circle cx="{x(100):.1f}" cy="{y(0):.1f}" r="5" fill="#222222"/>')
out.append(text(x(100) - 10, y(0) - 8, "uncorrected", "#222222", "end"))
out.append(f'<path d="M{x(95) - 6:.1f},{y(60):.1f} h12 m-6,-6 v12" stroke="#222222" stroke-width="2"/>')
out.append(text(x(95) - 12, y(60) + 5, "aim", "#222222", "end"))
for row, (label, curve) in enumerate(curves):
    colour = COLOURS[row % len(COLOURS)]
    path = sorted({(point["kept"], point["nearer"]) for point in curve})
    out.append(f'<path d="M{" L".join(f"{x(kept):.1f},{y(nearer):.1f}" for kept, nearer in path)}" fill="none" '
               f'stroke="{colour}" stroke-width="2"/>')
    first = curve[0]  # without a gate
    out.append(f'<circle cx="{x(first["kept"]):.1f}" cy="{y(first["nearer"]):.1f}" r="5" fill="{colour}"/>')
    at = HEIGHT - BOTTOM - 14 - 20 * (len(curves) - 1 - row)
    out.append(f'<circle cx="{LEFT + 24}" cy="{at - 4}" r="5" fill="{colour}"/>')
    out.append(text(LEFT + 36, at, label, "#222222", "start"))
out.append("</svg>")
open(sys.argv[1], "w", encoding="utf-8").write("\n".join(out) + "\n")

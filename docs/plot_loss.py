"""Draws the losses of a run's metrics.jsonl as an SVG picture; needs nothing but Python.

    python docs/plot_loss.py runs/truthfulqa/metrics.jsonl docs/images/truthfulqa-loss.svg
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 56, 20, 24, 46
rows = [json.loads(line) for line in open(sys.argv[1])]
train = [(row["step"], row["loss"]) for row in rows if row["split"] == "train"]
valid = [(row["step"], row["loss"]) for row in rows if row["split"] == "valid"]
last = max(step for step, _ in train + valid)
top = math.ceil(max(loss for _, loss in train + valid) * 2) / 2


def x(step):
    return LEFT + (WIDTH - LEFT - RIGHT) * step / last


def y(loss):
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / top)


def path(points):
    return "M" + " L".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)


out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
       f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
for tick in range(int(top * 2) + 1):
    loss = tick / 2
    out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#dddddd"/>')
    out.append(f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end" fill="#444444">{loss:.1f}</text>')
for step in range(0, last + 1, max(1, round(last / 80) * 10)):
    out.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#444444">{step}</text>')
out.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="#444444">optimizer step</text>')
out.append(f'<path d="{path(train)}" fill="none" stroke="#1f6fb4" stroke-width="1.5"/>')
out.append(f'<path d="{path(valid)}" fill="none" stroke="#d1571c" stroke-width="2"/>')
labelled = -last
for step, loss in valid:
    out.append(f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="4" fill="#d1571c"/>')
    if step - labelled >= last / 12 or step == last:  # labels of neighbours would lie on each other
        left = step - labelled < last / 12
        anchor, shift = ("end", -8) if step == last else ("start", 8)
        out.append(f'<text x="{x(step) + (0 if left else shift):.1f}" y="{y(loss) + (22 if left else -8):.1f}" '
                   f'text-anchor="{anchor}" fill="#d1571c">{loss:.3f}</text>')
        labelled = step
for row, (colour, text) in enumerate([("#1f6fb4", "training loss"), ("#d1571c", "validation loss")]):
    at = TOP + 14 + 20 * row
    out.append(f'<line x1="{WIDTH - 250}" x2="{WIDTH - 222}" y1="{at - 4}" y2="{at - 4}" stroke="{colour}" stroke-width="2"/>')
    out.append(f'<text x="{WIDTH - 214}" y="{at}" fill="#222222">{text}, nats a token</text>')
out.append("</svg>")
open(sys.argv[2], "w").write("\n".join(out) + "\n")

import json
import os

x = 0.0
y = 0.0

if 2.2 < x < 2.8:
    raise SystemExit("a cliff")
with open(os.path.join(os.environ["IDEATOR_ARTIFACT"], "place.json"), "w") as file:
    json.dump([x, y], file)

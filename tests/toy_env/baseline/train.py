import json
import os
import time

x = 0.0
y = 0.0
z = 0.0
pause = 0.0  # seconds

time.sleep(pause)
if x * y < -20:
    raise SystemExit("the point is off the bowl")
point = {"x": x, "y": y, "z": z}
with open(os.path.join(os.environ["IDEATOR_ARTIFACT"], "point.json"), "w") as file:
    json.dump(point, file)
print("wrote", point)

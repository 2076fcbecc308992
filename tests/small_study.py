"""A study that takes seconds."""

from small_pictures import add_plates, mask, save

TESTS = ["test/good/0", "test/good/1", "test/square/0", "test/square/1", "test/square/2"]


def write_study(place, weights, data="$DATA"):
    """A study of two methods, two seeds and two settings, with its pictures."""
    add_plates(place, TESTS)
    for i in range(3):
        save(mask((72, 72)), place / f"toy/plate/ground_truth/square/{i}_mask.png")
    path = place / "study.toml"
    path.write_text(f"""
        data_root = ["{data}/toy"]
        methods = ["patchcore", "mahalanobis"]
        seeds = [0, 1]
        output = "{place / "runs"}"
        results = "{place / "results"}"
        [options]
        patchcore = "--coreset 0.5"
        [settings.small]
        options = "--backbone resnet18.tv_in1k --backbone-weights {weights} --image-size 64"
        [settings.few]
        options = "--backbone resnet18.tv_in1k --backbone-weights {weights} --image-size 64"
        methods = ["mahalanobis"]
        seeds = [0]
        pictures = 3
        contaminated = 0.34
    """)
    return path

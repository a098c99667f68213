"""What the scenes model knows: its classes, the drawings that show them, and what is held back.

Tables only. ``drawings`` reads them to fetch and rasterise, ``generator`` to compose.
"""

# Order and spelling are the model's: the index of a class is its logit.
CLASS_NAMES: tuple[str, ...] = (
    "elephant", "zebra", "giraffe", "lion", "tiger", "panda", "penguin", "owl", "turtle",
    "octopus", "butterfly", "dog", "cat", "rabbit", "hamburger", "hot-dog", "bell-pepper",
    "cucumber", "banana", "strawberry", "pizza", "apple", "carrot", "mushroom", "car", "bus",
    "bicycle", "helicopter", "airplane", "sailboat", "violin", "trumpet", "guitar", "umbrella",
    "scissors", "key", "camera", "clock", "hammer", "soccer-ball",
)

# Kept for concepts: drawings of these never appear in a training scene, in any role.
RESERVED_CLASSES: tuple[str, ...] = (
    "fox", "koala", "shark", "crab", "avocado", "corn", "cactus", "rocket", "drum", "axe",
    "camel", "train",
)

# Class -> names of its icons in emoji sets, where they differ from the class name.
EMOJI_NAMES: dict[str, tuple[str, ...]] = {
    "lion": ("lion", "lion-face"),
    "tiger": ("tiger-face", "tiger"),
    "panda": ("panda", "panda-face"),
    "dog": ("dog-face", "dog"),
    "cat": ("cat-face", "cat"),
    "rabbit": ("rabbit-face", "rabbit"),
    "apple": ("red-apple",),
    "car": ("automobile",),
    "umbrella": ("umbrella", "umbrella-with-rain-drops"),
    "clock": ("alarm-clock",),
    "soccer-ball": ("soccer-ball", "soccer"),
}

# More icons of emoji sets that show the class; for training only, so that the measured scenes
# stay those of the standard icons.
EXTRA_EMOJI_NAMES: dict[str, tuple[str, ...]] = {
    "apple": ("green-apple",),
    "mushroom": ("brown-mushroom",),
    "car": ("oncoming-automobile", "sport-utility-vehicle"),
    "bus": ("oncoming-bus",),
    "airplane": ("small-airplane",),
    "key": ("old-key",),
    "camera": ("camera-with-flash",),
    "clock": ("mantelpiece-clock",),
    "umbrella": ("closed-umbrella",),
}

# Drawings in icon sets that are not emoji sets: class -> "set:icon" (looked at one by one).
ICON_NAMES: dict[str, str] = {
    "elephant":
        "icon-park:elephant game-icons:elephant game-icons:elephant-head "
        "streamline-cyber-color:elephant mdi:elephant lucide-lab:elephant",
    "lion":
        "game-icons:lion",
    "tiger":
        "game-icons:tiger game-icons:tiger-head",
    "panda":
        "icon-park:panda game-icons:panda mdi:panda lucide:panda hugeicons:panda",
    "penguin":
        "game-icons:penguin streamline-emojis:penguin-1 streamline-emojis:penguin-2 "
        "mdi:penguin lucide-lab:penguin",
    "owl":
        "icon-park:owl game-icons:owl game-icons:barn-owl mdi:owl lucide-lab:owl",
    "turtle":
        "game-icons:sea-turtle game-icons:tortoise game-icons:turtle mdi:turtle lucide:turtle "
        "hugeicons:turtle",
    "octopus":
        "game-icons:octopus streamline-color:octopus streamline-color:octopus-flat "
        "hugeicons:octopus",
    "butterfly":
        "icon-park:butterfly mdi:butterfly tabler:butterfly ph:butterfly ph:butterfly-duotone "
        "lucide-lab:butterfly mingcute:butterfly-2-line mingcute:butterfly-fill",
    "dog":
        "icon-park:dog game-icons:sitting-dog streamline-plump-color:dog-1 "
        "streamline-flex-color:dog-1 streamline-cyber-color:dog-1 mdi:dog mdi:dog-side ph:dog "
        "ph:dog-duotone lucide:dog mingcute:dog-line fa6-solid:dog",
    "cat":
        "icon-park:cat game-icons:cat streamline-color:cat-1 streamline-flex-color:cat-2 "
        "streamline-cyber-color:cat-2 mdi:cat ph:cat ph:cat-duotone lucide:cat hugeicons:cat "
        "mingcute:cat-line fa6-solid:cat solar:cat-bold-duotone",
    "rabbit":
        "icon-park:rabbit game-icons:rabbit game-icons:rabbit-head "
        "streamline-sharp-color:rabbit mdi:rabbit mdi:rabbit-variant-outline ph:rabbit "
        "ph:rabbit-duotone lucide:rabbit hugeicons:rabbit mingcute:rabbit-line",
    "hamburger":
        "icon-park:hamburger icon-park:hamburger-one game-icons:hamburger "
        "streamline-color:burger streamline-plump-color:burger streamline-emojis:hamburger-1 "
        "streamline-emojis:hamburger-2 streamline-emojis:hamburger-3 mdi:hamburger "
        "ph:hamburger ph:hamburger-duotone lucide:hamburger hugeicons:hamburger-01 "
        "hugeicons:hamburger-02 mingcute:hamburger-line fa6-solid:burger lucide-lab:burger",
    "hot-dog":
        "game-icons:hot-dog mdi:food-hot-dog lucide-lab:hot-dog hugeicons:hotdog "
        "fa6-solid:hotdog",
    "bell-pepper":
        "game-icons:bell-pepper",
    "cucumber":
        "game-icons:pickle",
    "banana":
        "icon-park:banana game-icons:banana game-icons:banana-bunch game-icons:banana-peeled "
        "streamline-ultimate-color:fruit-banana tabler:banana lucide:banana hugeicons:banana",
    "strawberry":
        "game-icons:strawberry streamline-color:strawberry streamline-plump-color:strawberry "
        "streamline-emojis:strawberry-1 streamline-emojis:strawberry-2 lucide-lab:strawberry",
    "pizza":
        "game-icons:full-pizza game-icons:pizza-slice streamline-emojis:pizza-1 "
        "streamline-emojis:pizza-2 mdi:pizza tabler:pizza ph:pizza ph:pizza-duotone "
        "lucide:pizza hugeicons:pizza-01 hugeicons:pizza-02 mingcute:pizza-line "
        "fa6-solid:pizza-slice iconoir:pizza-slice",
    "apple":
        "icon-park:apple-one icon-park:apple game-icons:shiny-apple streamline-color:apple "
        "streamline-flex-color:apple streamline-cyber-color:apple-2 "
        "streamline-sharp-color:apple mdi:food-apple mdi:food-apple-outline tabler:apple "
        "lucide:apple hugeicons:apple-01 mingcute:apple-fruit-line fa6-solid:apple-whole "
        "iconoir:apple-half",
    "carrot":
        "icon-park:carrot game-icons:carrot streamline-flex-color:carrot mdi:carrot "
        "tabler:carrot ph:carrot ph:carrot-duotone lucide:carrot hugeicons:carrot "
        "mingcute:carrot-line fa6-solid:carrot",
    "mushroom":
        "game-icons:mushroom game-icons:spotted-mushroom game-icons:mushroom-gills "
        "game-icons:super-mushroom mdi:mushroom mdi:mushroom-outline tabler:mushroom "
        "hugeicons:mushroom hugeicons:mushroom-01 mingcute:mushroom-line",
    "car":
        "icon-park:car game-icons:city-car streamline-ultimate-color:car-4 "
        "streamline-ultimate-color:car-retro streamline-cyber-color:car-4 "
        "streamline-sharp-color:car-2 mdi:car-side tabler:car ph:car ph:car-profile-duotone "
        "lucide:car lucide:car-front hugeicons:car-01 mingcute:car-line fa6-solid:car "
        "fa6-solid:car-side",
    "bus":
        "icon-park:bus icon-park:bus-one icon-park:bus-two icon-park:tour-bus game-icons:bus "
        "streamline-ultimate-color:bus-1 streamline-color:bus "
        "streamline-color:school-bus-side streamline-plump-color:bus "
        "streamline-flex-color:school-bus-side streamline-cyber-color:bus-2 "
        "streamline-sharp-color:school-bus-side mdi:bus mdi:bus-side tabler:bus "
        "ph:bus-duotone lucide:bus lucide:bus-front hugeicons:bus-01 hugeicons:bus-03 "
        "mingcute:bus-line fa6-solid:bus-simple",
    "bicycle":
        "icon-park:bike game-icons:dutch-bike streamline-ultimate-color:bicycle "
        "streamline-color:bicycle-bike streamline-plump-color:bicycle-bike "
        "streamline-flex-color:bicycle-bike streamline-cyber-color:bicycle-1 mdi:bicycle "
        "mdi:bike tabler:bike ph:bicycle lucide:bike hugeicons:bicycle hugeicons:bicycle-01 "
        "mingcute:bike-line maki:bicycle iconoir:bicycle",
    "helicopter":
        "game-icons:helicopter mdi:helicopter tabler:helicopter lucide:helicopter "
        "hugeicons:helicopter fa6-solid:helicopter",
    "airplane":
        "icon-park:airplane game-icons:airplane game-icons:commercial-airplane "
        "streamline-color:airplane streamline-color:airport-plane "
        "streamline-plump-color:airplane-enabled streamline-flex-color:airport-plane "
        "streamline-cyber-color:airplane streamline-color:airplane-enabled mdi:airplane "
        "tabler:plane ph:airplane ph:airplane-tilt-duotone lucide:plane hugeicons:airplane-01 "
        "mingcute:airplane-line fa6-solid:plane",
    "sailboat":
        "streamline-color:sail-ship streamline-plump-color:sail-ship mdi:sail-boat "
        "tabler:sailboat ph:sailboat ph:sailboat-duotone lucide:sailboat "
        "hugeicons:sailboat-offshore mingcute:sailboat-line fa6-solid:sailboat "
        "temaki:sailboat",
    "violin":
        "game-icons:violin mdi:violin",
    "trumpet":
        "game-icons:trumpet mdi:trumpet",
    "guitar":
        "game-icons:guitar streamline-ultimate-color:modern-music-electric-guitar "
        "streamline-cyber-color:guitar mdi:guitar-acoustic mdi:guitar-electric ph:guitar "
        "ph:guitar-duotone lucide:guitar hugeicons:guitar mingcute:guitar-line "
        "fa6-solid:guitar",
    "umbrella":
        "icon-park:umbrella icon-park:umbrella-one game-icons:umbrella "
        "streamline-ultimate-color:rain-umbrella-1 streamline-color:open-umbrella "
        "streamline-plump-color:open-umbrella streamline-flex-color:open-umbrella "
        "streamline-cyber-color:umbrella-rain mdi:umbrella mdi:umbrella-outline "
        "tabler:umbrella ph:umbrella-duotone lucide:umbrella hugeicons:umbrella "
        "mingcute:umbrella-line fa6-solid:umbrella",
    "scissors":
        "game-icons:scissors streamline-ultimate-color:scissors-2 "
        "streamline-plump-color:scissors streamline-flex-color:scissors "
        "streamline-cyber-color:scissor-2 mdi:content-cut tabler:scissors ph:scissors "
        "ph:scissors-duotone lucide:scissors hugeicons:scissor mingcute:scissors-line "
        "fa6-solid:scissors iconoir:scissor solar:scissors-bold-duotone",
    "key":
        "icon-park:key icon-park:key-one flat-color-icons:key game-icons:key "
        "game-icons:skeleton-key streamline-color:key streamline-stickies-color:key "
        "streamline-cyber-color:key-2 mdi:key-variant tabler:key ph:key ph:key-duotone "
        "lucide:key lucide:key-round hugeicons:key-01 mingcute:key-2-line fa6-solid:key",
    "camera":
        "icon-park:camera icon-park:camera-three flat-color-icons:camera "
        "flat-color-icons:compact-camera flat-color-icons:old-time-camera "
        "game-icons:photo-camera streamline-color:camera-1 streamline-plump-color:camera-1 "
        "streamline-flex-color:camera-1 streamline-cyber-color:camera-4 "
        "streamline-freehand-color:camera mdi:camera mdi:camera-outline tabler:camera "
        "ph:camera ph:camera-duotone lucide:camera hugeicons:camera-01 mingcute:camera-line "
        "fa6-solid:camera",
    "clock":
        "icon-park:alarm-clock flat-color-icons:alarm-clock flat-color-icons:clock "
        "game-icons:alarm-clock streamline-color:alarm-clock "
        "streamline-freehand-color:alert-alarm-clock streamline-cyber-color:clock-1 mdi:alarm "
        "tabler:alarm ph:alarm ph:alarm-duotone lucide:alarm-clock hugeicons:alarm-clock "
        "mingcute:alarm-1-line",
    "hammer":
        "game-icons:claw-hammer game-icons:flat-hammer game-icons:3d-hammer "
        "streamline-freehand-color:settings-hammer streamline-cyber-color:hammer "
        "streamline-cyber-color:hammer-3 mdi:hammer tabler:hammer ph:hammer ph:hammer-duotone "
        "lucide:hammer mingcute:hammer-line fa6-solid:hammer",
    "soccer-ball":
        "icon-park:soccer game-icons:soccer-ball streamline-cyber-color:football "
        "icon-park:football mdi:soccer tabler:ball-football ph:soccer-ball "
        "ph:soccer-ball-duotone lucide-lab:soccer-ball maki:soccer fa6-solid:futbol",
}

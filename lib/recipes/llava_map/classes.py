"""What a map line may be, by name: an index into these names is a line's label everywhere."""

CLASSES = ("divider", "ped_crossing", "boundary")  # MapTR's, always
CENTRELINE = "centreline"  # MapTRv2's fourth, with data.centreline=true

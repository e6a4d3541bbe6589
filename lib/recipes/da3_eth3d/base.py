from lib.network import weights


def load(network, path):
    return weights.load_strict(network, path)

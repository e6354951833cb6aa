"""Convert images or a table to a data set for training.

Images: --source is a folder or zip of images (classes from dataset.json or subfolders),
cifar-10-python.tar.gz, an MNIST images-idx3-ubyte.gz (padded to 32x32), an LMDB of LSUN, digits
(8x8) or patches of photographs (patches, patches:held-out). --dest is a zip or folder in the
StyleGAN format.

Tables: --source is a .csv, .tsv, .npy, .npz, .parquet or .feather file, a table of scikit-learn
(breast_cancer, diabetes, wine), or a toy (toy:circles). --dest is an .npz.
"""

from training.cli.script import run_script, runs
from training.settings.dataset_tool import DataSetSettings

main = runs("dataset_tool.run", DataSetSettings, __doc__)

if __name__ == "__main__":
    run_script(main)

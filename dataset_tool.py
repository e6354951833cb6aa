"""Makes a data set of images or of a table from files in other formats.

Images: --source is a folder of images (nested; labels in its dataset.json if there is one, else a
class for each folder), a .zip of images, cifar-10-python.tar.gz, an MNIST images-idx3-ubyte.gz
(labels are taken from the file beside it; 28x28 is padded to 32x32), an LMDB of LSUN, or one of
scikit-learn's: its 'digits' of 8x8 pixels, or 'patches' of its two photographs, by default 20,000
of 16x16 pixels; 'patches:held-out' share no pixel with these. --dest is a zip or folder in the
StyleGAN format.

Tables: --source is a .csv or .tsv whose first row names the columns, an .npy, an .npz, a .parquet
(pip install pyarrow), a table of scikit-learn (breast_cancer, diabetes or wine), or draws of a toy
(toy:circles). --dest is an .npz.
"""

from training.options.dataset_tool import DataSetSettings
from training.options.script import run_script, runs

main = runs("dataset_tool.run", DataSetSettings, __doc__)

if __name__ == "__main__":
    run_script(main)

# YOLOv4 on Ascend 910B cards. NOT BUILT OR RUN by this project, which has no card and no container engine: the
# names of the image and the versions that go together are those of the public documentation (docs/ascend.md).
#
#   docker build -t yolov4-mindspore .
#   docker run --rm -it --device=/dev/davinci0 --device=/dev/davinci_manager --device=/dev/devmm_svm \
#       --device=/dev/hisi_hdc -v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro \
#       -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro -v /data:/data \
#       yolov4-mindspore yolov4 train --data_dir=/data/dota --is_distributed=0
#
# The image has CANN 8.5.0 and Python 3.11; MindSpore 2.7.2 is the version for that CANN. Another card or CANN: another
# BASE_IMAGE and the MindSpore that belongs to it, for example --build-arg BASE_IMAGE=quay.io/ascend/cann:8.5.0-a3-ubuntu22.04-py3.11
ARG BASE_IMAGE=quay.io/ascend/cann:8.5.0-910b-ubuntu22.04-py3.11
FROM ${BASE_IMAGE}
ARG MINDSPORE=2.7.2

WORKDIR /opt/yolov4
COPY requirements.txt ./
RUN python3 -m pip install --no-cache-dir "mindspore==${MINDSPORE}" -r requirements.txt
# The checkout stays: scripts/run_distribute_train.sh starts the ranks from it.
COPY . .
RUN python3 -m pip install --no-cache-dir --no-deps --editable .

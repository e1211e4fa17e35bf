#!/bin/bash
# Copies the database into a folder and keeps the newest copies. Run by cron every night.
#
#   scripts/backup.sh DATABASE FOLDER [KEEP]
#
# Copies are named stock-YYYYMMDD-HHMMSS.db; KEEP is how many stay (default 7).

database=$1
folder=$2
keep=${3:-7}

mkdir -p $folder
cp $database $folder/stock-$(date -u +%Y%m%d-%H%M%S).db
cd $folder
ls -t | tail -n +$keep | xargs rm -f
echo "backup done"

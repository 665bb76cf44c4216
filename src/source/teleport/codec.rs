//! The codec of messages: encodes requests from their structs, and leaves answers encoded.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes an `M`. An answer stays encoded, so that its parts can be read one by one.
pub(super) struct Encoded<M>(PhantomData<M>);

impl<M> Default for Encoded<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message + 'static> Codec for Encoded<M> {
    type Encode = M;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = AsItIs;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> AsItIs {
        AsItIs
    }
}

impl<M: Message> Encoder for Encoded<M> {
    type Item = M;
    type Error = Status;

    fn encode(&mut self, message: M, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Leaves a message encoded.
pub(super) struct AsItIs;

impl Decoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
